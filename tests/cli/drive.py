"""Runs the `kubooth` command as a user would, with a stand-in for the launcher.

Called as `drive.py LAUNCHER-AS-JSON [--ctty] -- ARGUMENTS`. With --ctty standard input becomes the controlling
terminal, so that Ctrl-C typed into it is a signal.
"""

from __future__ import annotations

import fcntl
import json
import signal
import sys
import termios

from kubooth_cli.main import main

if __name__ == "__main__":
    split = sys.argv.index("--")
    launcher = json.loads(sys.argv[1])
    if "--ctty" in sys.argv[:split]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["kubooth", *sys.argv[split + 1 :]]
    main(obj=launcher)
