"""An app for the tests of the grid, which does what it is told; in a module that worker processes import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

ECHO = "query.echo"
RAISE = "query.fail"
SLEEP = "query.sleep"


def load_echo_app() -> ClientApp:
    app = ClientApp()

    @app.query("echo")
    def echo(message: Message, context: Context) -> Message:
        """Answers with its process and what it was given, then spoils what it was given."""
        word = str(message.content.config_records["words"].pop("word"))
        message.content.clear()
        name = str(context.node_config["name"])
        facts = ConfigRecord({"word": word, "pid": os.getpid(), "node": context.node_id, "name": name})
        return Message(RecordDict({"facts": facts}), reply_to=message)

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        raise ValueError("MRN-CANARY /secret/path")

    @app.query("sleep")
    def sleep(message: Message, context: Context) -> Message:
        """Notes its process in a file, sleeps, notes that it is done."""
        words = message.content.config_records["words"]
        note = Path(str(words["note"]))
        with note.open("a") as handle:
            print("begin", os.getpid(), file=handle, flush=True)
            time.sleep(float(str(words["seconds"])))
            print("end", os.getpid(), file=handle, flush=True)
        return Message(RecordDict({"facts": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

    return app
