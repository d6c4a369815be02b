"""The command `serve`: the studio's web server."""

import errno
import secrets
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from shotstream.cli.inference_options import load_warm, takes_options
from shotstream.cli.shared import BadInput, DeviceOption, Fault, ModelOption, bad_input, make_console

if TYPE_CHECKING:
    from shotstream.streaming.choice import Options

DEFAULT_PORT = 8720
_WHY_NOT = {
    errno.EADDRINUSE: "it is in use; give another --port",
    errno.EACCES: "only root may use this port; give another --port, from 1024 on",
}
DEFAULT_DATA = Path("~/.local/share/shotstream/studio")


@takes_options
def serve(
    model: ModelOption = "theatre",
    host: Annotated[
        str, typer.Option(help="Address to listen on; all but loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = DEFAULT_PORT,
    data: Annotated[Path, typer.Option(help="Directory of stories and media.")] = DEFAULT_DATA,
    database: Annotated[str | None, typer.Option(help="SQLAlchemy URL; default: SQLite in --data.")] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SHOTSTREAM_TOKEN", help="Access token; default: none on loopback, else a new one."
        ),
    ] = None,
    stories: Annotated[int, typer.Option(min=1, help="Stories that may be open at the same time.")] = 16,
    look_ahead: Annotated[
        float, typer.Option(min=1, help="Seconds of film generated beyond the slowest viewer.")
    ] = 6.0,
    quota_gb: Annotated[float, typer.Option(min=0.01, help="Maximum size of all stories, GiB.")] = 4.0,
    scale: Annotated[
        int | None, typer.Option(min=1, max=16, help="Enlargement of the frames that viewers are sent.")
    ] = None,
    preview_decoder: Annotated[
        Path | None,
        typer.Option(
            help="TAEHV's file (taew2_1.pth): a fast decoder of the frames that viewers are sent (Wan)."
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path prefix under which a proxy serves the studio, such as /studio.")
    ] = "",
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            envvar="FORWARDED_ALLOW_IPS",
            help="Proxies whose X-Forwarded-... headers are trusted: addresses, networks, or *.",
        ),
    ] = "127.0.0.1,::1",
    device: DeviceOption = "auto",
    *,
    options: "Options",
) -> None:
    """Serve a web page in which a film is directed while it is generated.

    Stories are stored on disk. Stop the server at any time, and continue later with the same command.
    """
    console = make_console()
    with bad_input():
        try:
            from shotstream.files import at_home
            from shotstream.studio.app import StudioSettings, check_data_dir, create_app
            from shotstream.studio.limits import Limits
            from shotstream.studio.proxy import validate_root_path
            from shotstream.studio.security import is_loopback, validate_token
            from shotstream.studio.server import StudioServer, bind_socket
        except ModuleNotFoundError as error:
            raise BadInput(f"{error.name} is missing; pip install 'shotstream[studio]'") from error
        root_path = validate_root_path(root_path)
        if token is not None:
            token = validate_token(token)
        elif not is_loopback(host):
            token = secrets.token_urlsafe(24)
        limits = Limits(open_stories=stories, look_ahead_s=look_ahead, quota_bytes=int(quota_gb * 2**30))
        data = at_home(data, "give --data")
        # Errors are reported before a large model is loaded.
        check_data_dir(data)
    with _bound(bind_socket, host, port) as bound:
        with bad_input(), console.status("loading"):
            from shotstream.streaming.preview import read_preview

            pipeline = load_warm(console, model, device, options)
            preview = None if preview_decoder is None else read_preview(preview_decoder, pipeline)
            settings = StudioSettings(
                data_dir=data,
                database_url=database,
                token=token,
                root_path=root_path,
                trusted_proxies=forwarded_allow_ips,
                scale=scale or max(1, 192 // pipeline.pixel_size.height),
                limits=limits,
            )
            app = create_app(settings, pipeline, preview)
        # Listening now: a browser that opens the address at once waits, instead of being refused.
        bound.listen()
        for line in _welcome(host, bound.getsockname()[1], token, root_path, data):
            console.print(line, soft_wrap=True)
        server = StudioServer(app, limits)
        server.run(sockets=[bound])
    console.print("; ".join(["closed", *server.shutdown_report]), highlight=False, soft_wrap=True)


@contextmanager
def _bound(bind: "Callable[[str, int], socket.socket]", host: str, port: int) -> Generator[socket.socket]:
    try:
        bound = bind(host, port)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = _WHY_NOT.get(number or 0, "this machine cannot use that address; give another --host")
        raise Fault(f"cannot listen on {_shown(host)}:{port}: {why}") from error
    with bound:
        yield bound


def _welcome(host: str, port: int, token: str | None, root_path: str, data: Path) -> Iterator[str]:
    """Yields the lines that are printed when the server is ready."""
    secret = f"?token={quote(token, safe='')}" if token else ""
    everywhere = host in ("", "0.0.0.0", "::")
    own = "127.0.0.1" if everywhere else _shown(host)
    yield f"the studio is open at http://{own}:{port}/{secret} (stop it with Ctrl-C)"
    if everywhere:
        yield f"from other computers: http://{_shown(_address())}:{port}/{secret}"
    if root_path:
        yield f"through the proxy: its own address, then {root_path}/{secret}"
    yield f"stories are kept in {data}"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _address() -> str:
    """Returns the address at which other machines most likely reach this one; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return probe.getsockname()[0]
