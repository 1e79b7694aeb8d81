"""Make the development environment, once, for the Makefile: python3 .ci/venv.py VENV.

The stamp is written last. It holds the place of the environment and a digest of the files that decide what
is installed. With no stamp an install was cut short, and a half-copied package can look installed to pip;
with another place the environment was copied, and its scripts point back: both are made anew. With another
digest pip brings the environment up to date. A lock lets one process at a time do so.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - read by whichever Python the machine has
    sys.exit("Python 3.10 or newer is needed, this is " + sys.version + ". Name another: make PYTHON=...")

import fcntl
import hashlib
import importlib.util
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = (ROOT / "pyproject.toml", ROOT / "constraints.txt", Path(__file__).resolve())
NO_VENV = (
    "{python} lacks the standard module {module!r}, so it cannot make a virtual environment. "
    "On Debian and Ubuntu: apt install python3-venv. Or name another: make PYTHON=/path/to/python3"
)


def main(venv: Path) -> None:
    """Bring ``venv`` to the state that the input files ask for, one process at a time."""
    stamp = venv / ".complete"
    place, digest = str(venv.resolve()), digest_of(INPUTS)
    with open(f"{venv}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go when this process and its pip have ended
        stamped = stamp.read_text().splitlines() if stamp.exists() else []
        whole = stamped[:1] == [place] and starts(venv)
        if not whole or stamped != [place, digest]:
            stamp.unlink(missing_ok=True)
            install(venv, whole, lock.fileno())
            write_whole(stamp, f"{place}\n{digest}\n")


def digest_of(files: tuple[Path, ...]) -> str:
    """One digest over the contents of ``files``."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def starts(venv: Path) -> bool:
    """Whether the environment's Python runs: the one it was made from may be gone."""
    try:
        return subprocess.run((venv / "bin" / "python", "-c", "")).returncode == 0
    except OSError:
        return False


def install(venv: Path, whole: bool, lock: int) -> None:
    """Install the package in place with its development and documentation extras, under the pins."""
    if not whole:
        for module in ("venv", "ensurepip"):
            if importlib.util.find_spec(module) is None:
                sys.exit(NO_VENV.format(python=sys.executable, module=module))
        print(f"making {venv}", flush=True)
        run(lock, sys.executable, "-m", "venv", "--clear", venv)
    print(f"installing into {venv} (the first time takes a few minutes)", flush=True)
    pip = (venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(lock, *pip, "install", "-qq", "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[dev,docs]")


def write_whole(stamp: Path, text: str) -> None:
    """Write the stamp so that it is either whole or absent."""
    part = stamp.with_suffix(".part")
    part.write_text(text)
    os.replace(part, stamp)


def run(lock: int, *command: str | Path) -> None:
    """Run a command that holds the lock too, and stop here if it fails."""
    status = subprocess.run(command, pass_fds=(lock,)).returncode
    if status:
        sys.exit(f"no development environment: {' '.join(map(str, command))} ended with status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
