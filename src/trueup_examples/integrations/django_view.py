"""The view in Django: ``POST /orders``. Settings: ``TRUEUP_URL`` and ``TRUEUP_KEY``."""

from __future__ import annotations

import json
from functools import cache

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from trueup.client import Client
from trueup_examples.integrations import orders


@cache
def client() -> Client:
    """The one client of this process, made when first asked for: after the fork, if there was one."""
    return Client(settings.TRUEUP_URL, key=settings.TRUEUP_KEY, timeout=orders.TIMEOUT_S)


@csrf_exempt  # for programs, which have no session that somebody could ride on
@require_POST
def order(request: HttpRequest) -> JsonResponse:
    """One order."""
    try:
        sent = json.loads(request.body)
    except ValueError:
        sent = None
    answer = orders.decide(client(), sent)
    return JsonResponse(answer.document, status=answer.status, headers=answer.headers)


urlpatterns = [path("orders", order)]
