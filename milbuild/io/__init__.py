"""What is written for people, and what is cleaned up when writing is interrupted."""
