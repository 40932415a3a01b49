"""Let `python -m vidreward` do what the command `vidreward` does."""

from vidreward.cli import main

if __name__ == "__main__":
    main()
