"""`python -m milbuild` is the command line."""

from milbuild.cli import main

if __name__ == "__main__":
    main()
