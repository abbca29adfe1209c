"""``python -m tokenprune``: the command line."""

from tokenprune.cli.main import main

if __name__ == "__main__":
    main()
