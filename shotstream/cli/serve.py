"""`shotstream serve`: the studio, in the browser."""

import ipaddress
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotstream.cli.crew import load_warm, takes_options
from shotstream.cli.shared import BadInput, DeviceOption, Fault, ModelOption, bad_input, make_console

if TYPE_CHECKING:
    from shotstream.streaming.choice import Options

DEFAULT_PORT = 8720
DEFAULT_DATA = Path("~/.local/share/shotstream/studio")


@takes_options
def serve(
    model: ModelOption = "theatre",
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = DEFAULT_PORT,
    data: Annotated[Path, typer.Option(help="Where stories are kept.")] = DEFAULT_DATA,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL; default: SQLite beside the stories.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="SHOTSTREAM_TOKEN", help="Default: none on loopback, else a new one."),
    ] = None,
    stories: Annotated[int, typer.Option(min=1, help="Stories that may be open at the same time.")] = 16,
    look_ahead: Annotated[
        float, typer.Option(min=1, help="Seconds that a film is made in front of its slowest viewer.")
    ] = 6.0,
    quota_gb: Annotated[float, typer.Option(min=0.01, help="Most that all stories may take on disk.")] = 4.0,
    scale: Annotated[
        int | None, typer.Option(min=1, max=16, help="Enlargement of the pictures that are sent.")
    ] = None,
    preview_decoder: Annotated[
        Path | None,
        typer.Option(help="TAEHV's file (taew2_1.pth): its pictures are sent while a shot is made (Wan)."),
    ] = None,
    device: DeviceOption = "auto",
    *,
    options: "Options",
) -> None:
    """Direct a film in the browser while it is being made.

    Stories are safe on disk; stop the server at any time, and go on later with the same command.
    """
    console = make_console()
    with bad_input():
        try:
            from shotstream.studio.app import StudioSettings, create_app
            from shotstream.studio.limits import Limits
            from shotstream.studio.server import StudioServer
        except ModuleNotFoundError as error:
            raise BadInput(f"{error.name} is missing; pip install 'shotstream[studio]'") from error
        if token is not None and len(token) < 16:
            raise BadInput("the token is short; give at least 16 characters")
        if token is None and not _is_loopback(host):
            token = secrets.token_urlsafe(24)
        limits = Limits(open_stories=stories, look_ahead_s=look_ahead, quota_bytes=int(quota_gb * 2**30))
        with console.status("loading"):
            from shotstream.streaming.preview import read_preview

            pipeline = load_warm(console, model, device, options)
            preview = None if preview_decoder is None else read_preview(preview_decoder, pipeline.engine)
            settings = StudioSettings(
                data_dir=data.expanduser(),
                database_url=database,
                token=token,
                scale=scale or max(1, 192 // pipeline.pixel_size.height),
                limits=limits,
            )
            app = create_app(settings, pipeline, preview)
    from rich.text import Text

    server = StudioServer(app, host, port)
    shown = f"[{host}]" if ":" in host else host
    try:
        socket = server.config.bind_socket()
    except SystemExit as error:  # uvicorn's answer to an address that is taken
        raise Fault(f"cannot listen on {shown}:{port}; is it taken? give another --port") from error
    socket.listen(128)  # Who follows the address at once waits for the server instead of being refused.
    secret = f"?token={token}" if token else ""
    address = f"http://{shown}:{socket.getsockname()[1]}/{secret}"
    told = Text.assemble("the studio is open at ", (address, "bold"), " (stop it with Ctrl-C)")
    console.print(told, highlight=False, soft_wrap=True)
    try:
        server.run(sockets=[socket])
    except KeyboardInterrupt:
        pass
    finally:
        socket.close()
    console.print("closed; every finished shot is safe", highlight=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
