"""Does a server's memory stay where it was? Its resident size over calls of `/generate`, each by a new session.

The server is `python app.py` itself, in a process of its own, with the pocket model; the calls are those of
gradio_client without a cookie. Sizes are read as the system tells them, with nothing collected or trimmed for them.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import psutil
from gradio_client import Client
from tqdm import tqdm

from tests.browser import started

WARM_UP = 300  # jobs, after which nothing may grow any more
MOST = 5.0  # KB a job


def main(pairs: int) -> None:
    """`pairs` is the number of jobs in all. Exits with 1 if the server grows by more than MOST."""
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as url:
        server = _server(int(url.rpartition(":")[2]))
        sizes = []
        for seed in tqdm(range(pairs), leave=False):
            _make_one(url, seed)
            sizes.append(server.memory_info().rss / 1024)
    warm = sizes[WARM_UP:]
    slope, _ = statistics.linear_regression(range(len(warm)), warm)
    print(f"{pairs} jobs: {sizes[0] / 1024:.1f} → {warm[0] / 1024:.1f} → {warm[-1] / 1024:.1f} MiB")
    print(f"from the {WARM_UP}th on {slope:+.2f} KB a job, at most {MOST:g}")
    raise SystemExit(slope > MOST)


def _server(port: int) -> psutil.Process:
    """The child of this process that listens on a port."""
    children = psutil.Process().children()
    return next(each for each in children if port in [held.laddr.port for held in each.net_connections()])


def _make_one(url: str, seed: int) -> None:
    client = Client(url, verbose=False, analytics_enabled=False, download_files=False)
    client.predict(prompt="a red circle", steps=1, width=64, height=64, seed=seed, api_name="/generate")
    client.close()
