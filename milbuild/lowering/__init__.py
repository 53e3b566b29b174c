"""From a program to the bytes of a package: passes, weight.bin, the description, and the folder."""
