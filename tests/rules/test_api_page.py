from __future__ import annotations

from tests.rules.api_page import PAGE, SECTIONS, document, render


def test_api_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == render(document()), "run `make docs`"


def test_every_endpoint_has_a_section() -> None:
    api = document()
    page = PAGE.read_text()

    assert {operation["tags"][0] for path in api["paths"].values() for operation in path.values()} == set(SECTIONS)
    assert all(f"{method.upper()} {path}`" in page for path, operations in api["paths"].items() for method in operations)
