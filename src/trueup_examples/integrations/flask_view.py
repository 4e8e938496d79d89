"""The view in Flask: ``POST /orders``."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

from trueup.client import Client
from trueup_examples.integrations import orders


def create_app(client: Client) -> Flask:
    """The application over one client, which all its threads share. A worker process makes its own after the fork."""
    app = Flask(__name__)

    @app.post("/orders")
    def order() -> Response:
        answer = orders.decide(client, request.get_json())
        response = jsonify(answer.document)
        response.status_code = answer.status
        response.headers.update(answer.headers)
        return response

    return app
