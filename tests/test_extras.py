from __future__ import annotations

import gc

import pytest

from promptreel.extras import imports_for_good


def test_garbage_collector_skips_what_was_imported_for_good_and_goes_on() -> None:
    before = gc.get_freeze_count()
    with imports_for_good():
        assert not gc.isenabled()
        imported = [[number] for number in range(1000)]

    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(imported)


def test_failed_import_leaves_the_garbage_collector_running() -> None:
    with pytest.raises(ImportError), imports_for_good():
        raise ImportError

    assert gc.isenabled()
