"""A picture with the patches that a method keeps, for whoever wants to see what is pruned."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tokenprune.errors import TokenPruneError
from tokenprune.models.once import Once
from tokenprune.vision.methods.base import (
    VisionMethodInfo,
    list_vision_methods,
    method_spec,
    vision_method_info,
)
from tokenprune_server.errors import RequestError
from tokenprune_server.options import Keep
from tokenprune_server.vision.files import decode, open_files
from tokenprune_server.vision.parts import Picture
from tokenprune_server.vision.reduce import PictureReducer
from tokenprune_server.vision.settings import VisionSettings

if TYPE_CHECKING:
    from tokenprune.vision.engine import VisionEngine

log = logging.getLogger("tokenprune.server")

_NO_QUESTIONS = (
    "this server answers no questions about pictures, and methods inside the language model need one: set "
    "server.vision.questions to true, with a whole checkpoint as server.vision.model"
)


class PictureRequest(BaseModel):
    """Body of ``/v1/prune/picture``.

    Attributes:
        image: the picture as a data URL.
        method: as on the command line: ``name`` or ``name:option=value,option=value``.
        keep: tokens that stay; see `Keep`. Left out, it is that of the settings.
        question: what the model is asked; needed by methods inside the language model.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    image: str
    method: str
    keep: Keep = None
    question: str = ""


class Viewer:
    """Shows what a method keeps of a picture. Blocking, thread-safe.

    Args:
        settings: the limits, and what is pruned by when a request does not say.
        reducer: encodes; pictures are encoded once for it and for this.
    """

    def __init__(self, settings: VisionSettings, reducer: PictureReducer) -> None:
        self._settings, self._reducer = settings, reducer
        self._engine: Once[VisionEngine] = Once()

    @property
    def questions(self) -> bool:
        """Whether it answers questions."""
        return self._settings.questions

    def warm_up(self) -> None:
        """Load what answers questions, so that the first does not wait for it.

        Chats do without: where it cannot be loaded, that is logged, and told to whoever asks.
        """
        if self.questions:
            try:
                self._engine.get("", self._load)
            except TokenPruneError as error:
                log.error("questions about pictures cannot be answered: %s", " ".join(str(error).split()))

    def describe(self) -> dict[str, Any]:
        """What may be asked for: methods, whether questions are answered, and what is pruned by otherwise."""
        settings = self._settings
        methods = [
            {"name": info.name, "about": info.line, "inside": info.where == "inside"}
            for info in list_vision_methods()
            if _may_be_named(info) and (self.questions or info.where == "before")
        ]
        return {
            "methods": methods,
            "questions": self.questions,
            "method": settings.method,
            "keep": settings.keep,
        }

    def __call__(self, request: PictureRequest) -> dict[str, Any]:
        """Prune and draw one picture.

        Args:
            request: what is asked for.

        Returns:
            ``method``, ``tokens_before``, ``tokens_after``, ``views`` (rows and columns of patches, of each
            view of the picture), ``grid`` (of the first), ``kept`` (places in them, row by row, view by
            view), ``picture`` (as the encoder sees it) and ``marked`` (with what is kept highlighted) as data
            URLs, views below each other, ``summary`` and ``note`` in words, ``answer``, ``seconds``.

        Raises:
            RequestError: the picture, the method, its budget or the question cannot be used.
            TokenPruneError: as the method or the model says.
            GivenUpError: nobody waits any more.
        """
        from tokenprune.vision import show
        from tokenprune.vision.look import Chosen, Looking

        began = time.perf_counter()
        info = vision_method_info(method_spec(request.method)[0])
        if not _may_be_named(info):
            raise RequestError(
                f"vision method {info.name!r} reads a file of its own, which a request cannot name: use "
                "`tokenprune vision show`",
                param="method",
            )
        if not self.questions and (request.question or info.where == "inside"):
            raise RequestError(_NO_QUESTIONS, param="question" if request.question else "method")
        keep = request.keep if "keep" in request.model_fields_set else self._settings.keep
        chosen = Chosen.of(request.method, keep)
        (file,) = open_files([Picture(("image",), request.image)], [None], self._settings)
        item, encoder = self._reducer.item(file), self._reducer.encoder()
        engine = self._engine.get("", self._load) if request.question else None
        looking = Looking(encoder, item, question=request.question, engine=engine)
        left, answer = looking.look(chosen)
        tokens = item.tokens
        states = show.states(tokens, left)
        seen = show.as_seen(encoder, [decode(file, self._settings)])
        marked = [show.marked(view, of_view) for view, of_view in zip(seen, states, strict=True)]
        return {
            "method": chosen.text,
            "grid": list(states[0].shape),
            "views": [list(of_view.shape) for of_view in states],
            "tokens_before": len(tokens),
            "tokens_after": len(left),
            "kept": left.keep.tolist(),
            "summary": show.count_line(states),
            "note": chosen.note(len(tokens), len(left)),
            "answer": answer,
            "picture": show.data_url(show.below_each_other(seen)),
            "marked": show.data_url(show.below_each_other(marked)),
            "seconds": time.perf_counter() - began,
        }

    def _load(self) -> VisionEngine:
        from tokenprune.vision.engine import VisionEngine

        settings = self._settings
        return VisionEngine(settings.model, device=settings.device, dtype=settings.dtype)


def _may_be_named(info: VisionMethodInfo) -> bool:
    """Whether a request may name a method: not one that needs a file of the server."""
    return not any(option.endswith("(required)") for option in info.options)
