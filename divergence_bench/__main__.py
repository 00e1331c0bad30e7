"""``python -m divergence_bench``."""

from divergence_bench.cli.main import main

if __name__ == "__main__":
    main()
