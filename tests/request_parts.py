"""Requests as the tests read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from aliquot.agent import requests
from aliquot.agent.config import ANNOTATIONS, CAMBRICON, ENVIRONMENT, HAMI, Config, Shares
from aliquot.agent.errors import BadRequestError
from aliquot.agent.slices import Request

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30


def read(
    annotations: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    name: str = "",
    sources: tuple[str, ...] = (ANNOTATIONS, ENVIRONMENT, HAMI, CAMBRICON),
    sharing: Shares = Shares(),  # noqa: B008 - it cannot be changed
) -> Request | None:
    config = replace(Config(), sources=sources, sharing=sharing)
    return requests.read(annotations or {}, environment or {}, name, config)


def wanted(
    annotations: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    name: str = "",
) -> Request:
    request = read(annotations, environment, name)
    assert request is not None
    return request


def memory(request: Request | None) -> int | None:
    return request.memory.of(16 * GIB) if request and request.memory else None


def refusal(
    annotations: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> str:
    with pytest.raises(BadRequestError) as caught:
        read(annotations, environment, "app")
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400
    return text
