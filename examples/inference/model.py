"""A small custom model on KServe's own server: scores for digits, KServe v1 protocol.

It is quantised to integers, so that a batch gives exactly the numbers of single calls. (With
floating point the order of additions differs from one batch size to the next, and so do the last
digits: that is the model's doing, not the proxy's.)
"""

import os
import socket
import sys
import threading

import kserve.model_server
import numpy as np
from kserve import Model, ModelServer
from kserve.protocol.rest.server import RESTServer

INPUTS, HIDDEN, CLASSES = 64, 4096, 10


class Digits(Model):
    """Two layers of integer weights, the same in every run."""

    def __init__(self):
        super().__init__("digits")
        weights = np.random.default_rng(7)
        self.first = weights.integers(-8, 8, (INPUTS, HIDDEN), dtype=np.int64)
        self.second = weights.integers(-8, 8, (HIDDEN, CLASSES), dtype=np.int64)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """One score for each class and instance."""
        instances = np.array(payload["instances"], dtype=np.int64)
        hidden = np.maximum(instances @ self.first, 0) >> 4
        return {"predictions": (hidden @ self.second).tolist()}


def end_with_parent():
    """Ends this process when nobody holds the other end of stdin any more."""
    sys.stdin.buffer.read()
    os._exit(0)


class LoopbackServer(RESTServer):
    """KServe's HTTP server, on a free port of this machine only, and it says which."""

    async def start(self):
        listener = socket.create_server(("127.0.0.1", 0))
        # Accepted sockets inherit it. Without, each reply waits 40 ms for a delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print(f"model server listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        self.create_application()
        await self._server.serve(sockets=[listener])


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    kserve.model_server.RESTServer = LoopbackServer
    ModelServer(enable_grpc=False, access_log_format=None).start([Digits()])
