"""``python -m sansref`` is the command ``sansref``."""

from sansref.cli import main

if __name__ == "__main__":
    main()
