"""Who asks, as the guard in front of the server found out: for what an event's handler needs to know."""

from __future__ import annotations

import gradio as gr

from core.settings import NEWCOMERS


def owner_of(request: gr.Request) -> str:
    """The visitor's key: whose jobs and pictures a request is about. "local" where only this machine may come."""
    return str(request.state.owner)


def address_of(request: gr.Request) -> str:
    """Where a job is asked from, for the limits; empty where nothing tells, once the visitor is no newcomer."""
    return NEWCOMERS if request.state.is_newcomer and request.state.is_known else str(request.state.address)


def is_known(request: gr.Request) -> bool:
    """Whether the visitor's browser keeps our cookie; each request of one that does not has an owner of its own."""
    return bool(request.state.is_known)
