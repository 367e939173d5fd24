"""Open the playground: draw a digit in the browser and see the predictions of the three tracks.

    python -m compare.play
    python -m compare.play --checkpoint runs/first/checkpoints/cnn-mnist-jax-seed0 --tracks numpy torch --port 8080

One process holds the networks and serves the page (``compare/play/page``), by default to this machine only. The tracks
compute one after the other on one core each, because threads of three frameworks would compete for the same cores; an
image of 28 x 28 takes each of them about a millisecond.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence

from compare import cli
from compare.cli import command_line
from compare.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("play", __doc__, what="networks")
    cli.group(options, "networks").add_argument(
        "--checkpoint", type=cli.network, metavar="PATH", help=f"{cli.NETWORK} (default: cnn-mnist)"
    )  # fmt: skip
    cli.add_network(options, where="networks", what="the network of your own that the checkpoint holds")
    cli.add_tracks(options, where="networks")
    server = cli.group(options, "server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    server.add_argument(
        "--port",
        type=cli.number(int, 0, 65535),
        default=8000,
        metavar="N",
        help="port; 0 picks a free one (default: 8000)",
    )
    server.add_argument("--no-browser", action="store_true", help="only print the address")
    return options


def listening(host: str, port: int) -> socket.socket:
    """Open a listening socket; UserError if the address is in use or invalid."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise UserError(f"cannot listen at {host}, port {port} ({reason}): choose another --port or --host") from error


def admitted(host: str, address: str) -> list[str]:
    """Return the host names that requests may use, which prevents DNS rebinding."""
    where = ipaddress.ip_address(address)
    if not where.is_loopback:
        print(
            f"warning: anyone who can reach {host} can use the playground; --host 127.0.0.1 limits it to this machine",
            file=sys.stderr,
        )
    return ["*"] if where.is_unspecified else ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; return 0, or 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    # One thread each; must be set before the frameworks are imported.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    from compare.play.answers import Playground
    from compare.play.server import server

    playground = Playground(options.tracks, options.checkpoint, options.network)
    with listening(options.host, options.port) as door:
        address, port = door.getsockname()[:2]
        hosts = admitted(options.host, address)
        url = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"
        print(f"{url}   (press Ctrl-C to stop)", flush=True)
        screen = sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}  # else: a text browser
        if screen and not options.no_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server(playground, hosts).run(sockets=[door])
    return 0


if __name__ == "__main__":
    sys.exit(main())
