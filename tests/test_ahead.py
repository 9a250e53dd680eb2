"""What is made ahead is what would have been made in time."""

import threading

import pytest

from ddcli.ahead import Ahead


def test_the_next_is_made_meanwhile_and_once():
    made, begun = [], threading.Event()

    def make(key):
        made.append((key, threading.current_thread() is threading.main_thread()))
        begun.set()
        return key * 10

    ahead = Ahead(make)
    assert ahead.take(1, then=2) == 10
    assert begun.wait(10)
    assert ahead.take(2, then=3) == 20
    ahead.drop()
    assert made == [(1, True), (2, False), (3, False)]


def test_what_is_asked_for_is_made_whatever_was_made_before():
    ahead = Ahead(lambda key: key * 10)
    assert [ahead.take(key, then) for key, then in ((1, 2), (7, 8), (8, None), (9, None))] == [10, 70, 80, 90]


def test_an_error_comes_where_its_thing_is_asked_for():
    def make(key):
        if key == 2:
            raise ValueError("no such thing")
        return key

    ahead = Ahead(make)
    assert ahead.take(1, then=2) == 1
    with pytest.raises(ValueError, match="no such thing"):
        ahead.take(2)
    assert ahead.take(1, then=2) == 1
    assert ahead.take(3) == 3
