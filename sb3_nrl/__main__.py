"""``python -m sb3_nrl``."""

from sb3_nrl.cli import main

if __name__ == "__main__":
    main()
