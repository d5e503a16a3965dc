"""`python -m dgmvlc_cli` is `dgmvlc`."""

from dgmvlc_cli.cli import main

if __name__ == "__main__":
    main()
