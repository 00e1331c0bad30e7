"""``python -m harness``."""

if __name__ == "__main__":
    import signal

    # Until ``main`` installs its handler there is nothing to save: Ctrl-C ends the process at once.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from divergence_bench.cli.main import main

    main()
