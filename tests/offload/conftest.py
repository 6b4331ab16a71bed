"""What the tests of models share."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def one_thread_for_tiny_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """Matrices this small are not worth a second thread; on a busy machine they would wait for it for long."""
    torch = sys.modules.get("torch")  # not imported for tests that do without
    if torch is None or "smollm2" in request.fixturenames:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
