"""The list of all peers, and how a part of it is asked for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from .adapter import Peer
from .jax_peers import JAX
from .packages import PACKAGES
from .stock import STOCK, Ours, Tiled

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*STOCK, *PACKAGES, *JAX)}
# Shown beside the others, but beating them is not what the bars ask for.
OWN = (Ours.name, Tiled.name)


def select(asked: str) -> list[type[Peer]]:
    """``all``, ``stock`` (all that come with torch), ``none``, or names with commas between them.

    Raises:
        ValueError: there is no peer of a name.
    """
    groups = {"all": list(PEERS), "stock": [peer.name for peer in STOCK], "none": []}
    names = groups.get(asked, asked.split(","))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        known = ", ".join(dict.fromkeys([*groups, *PEERS]))
        raise ValueError(f"--peers: expected {known}, got {', '.join(unknown)}")
    return [PEERS[name] for name in names]


def installed(peer: type[Peer]) -> str:
    """Version of the package of a peer, ``with torch``, or why it cannot be run."""
    problem = peer.problem()
    if problem:
        return problem if len(problem) < 100 else f"{problem[:97]}..."
    try:
        return version(peer.package) if peer.package else "with torch"
    except PackageNotFoundError:
        return "unknown version"
