from __future__ import annotations

from robot_edge.page.viewers import MAX_VIEWERS, Viewers


def test_a_viewer_too_many_takes_the_place_of_who_has_looked_for_longest() -> None:
    viewers = Viewers()
    views = [(str(number), viewers.begin(str(number))) for number in range(MAX_VIEWERS)]
    assert viewers.full
    assert all(viewers.has(*view) for view in views)
    viewers.begin("one more")
    assert [viewers.has(*view) for view in views] == [False] + [True] * (MAX_VIEWERS - 1)
    assert "0" not in viewers


def test_who_leaves_frees_the_place() -> None:
    viewers = Viewers(2)
    staying = viewers.begin("staying")
    for number in range(10):
        viewers.end(str(number), viewers.begin(str(number)))
    assert viewers.has("staying", staying)
    assert not viewers.full


def test_who_looks_anew_has_one_place_and_its_former_end_takes_nothing_away() -> None:
    viewers = Viewers(2)
    former = viewers.begin("page")
    view = viewers.begin("page")
    assert not viewers.full
    assert not viewers.has("page", former)
    viewers.end("page", former)
    assert viewers.has("page", view)
