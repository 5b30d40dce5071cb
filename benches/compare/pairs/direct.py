"""No proxy: what the generator, the application and the network between them can do."""

from application import HTTP2_PORT, PORT
from bed import SERVER

from . import Pair


def start(_bed, _authority):
    return Pair("direct", (SERVER, PORT), http2_target=(SERVER, HTTP2_PORT))
