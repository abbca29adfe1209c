"""Visual token pruning as the last step before a chat goes to the upstream."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from tokenprune.errors import TokenPruneError, VisionError
from tokenprune_server.body import ClientGone
from tokenprune_server.decide import PRUNED, failed, skipped
from tokenprune_server.errors import RequestError
from tokenprune_server.pool import PrunePool
from tokenprune_server.protocols.base import Path, Protocol
from tokenprune_server.receipts import PictureReceipt, ReceiptStore
from tokenprune_server.request import Outcome, Pictures, Request, plain_body
from tokenprune_server.types import ASGIApp, Headers, Message, Send
from tokenprune_server.vision.files import File, open_files
from tokenprune_server.vision.parts import Found, Picture, find, put, runs
from tokenprune_server.vision.plan import plan
from tokenprune_server.vision.reduce import PictureReducer, Plan, Reduction, probe_picture
from tokenprune_server.vision.rows import RowGate
from tokenprune_server.vision.settings import VisionSettings
from tokenprune_server.vision.sources import Fetcher
from tokenprune_server.vision.support import SUPPORTED, WHY, Probe, Support
from tokenprune_server.vision.wire import check_payload, encode_rows
from tokenprune_server.watch import done_in_time

log = logging.getLogger("tokenprune.server")

EMBEDS = "embeds"
_CHATS = "/v1/chat/completions"
# Such an upstream refuses rows itself.
_TAKES_NONE = frozenset({"no-embeds", "not-vllm"})
# By these, an upstream may say that it takes no rows (any more).
_REFUSALS = frozenset({400, 404, 422, 500, 501})
_MAX_SAID = 64  # different errors that are remembered as logged


class _UnsupportedError(Exception):
    """The upstream cannot take rows; ``reason`` is a key of `WHY`."""

    def __init__(self, reason: str) -> None:
        super().__init__(WHY[reason])
        self.reason = reason


class VisionStage:
    """Sends rows in place of the pictures of chats, whatever became of their texts before.

    What is left of a picture does not depend on the question (but on the method and budget), so the same
    picture is the same prefix for the upstream's cache in each turn.

    Args:
        app: the upstream.
        settings: how pictures are pruned.
        reducer: encodes and prunes them.
        receipts: where the receipts go.
        pool: threads for what is short: reading headers, looking up what is known, checking rows. They wait
            neither for texts nor for pictures that are new.
        encoders: threads for pictures that are new.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: VisionSettings,
        reducer: PictureReducer,
        receipts: ReceiptStore,
        pool: PrunePool,
        encoders: PrunePool,
    ) -> None:
        self._settings, self._reducer, self._receipts = settings, reducer, receipts
        self._pool, self._encoders = pool, encoders
        self._said: set[str] = set()
        self._probe: Probe | None = None
        self._rows = RowGate(open_=settings.unequal_rows)
        self._support = Support(app, self._rows)
        self._fetch = Fetcher(
            settings.max_image_bytes, settings.remote_timeout_s, allow_private=settings.allow_private
        )

    def has_work(self, request: Request, decision: str) -> bool:
        """Whether a request whose texts are not looked at has something for this stage all the same.

        Rows are always checked; pictures are left alone where all pruning is switched off.
        """
        found = find(request.body) if self.serves(request.protocol) else None
        if not found or found.embeds:
            return bool(found)
        return decision != skipped("disabled") or self._enabled(request, decision)

    @staticmethod
    def serves(protocol: Protocol) -> bool:
        """Whether requests of a protocol may have pictures."""
        return _CHATS in protocol.routes

    @staticmethod
    def size(request: Request) -> int:
        """How much of a request is pictures and rows, and no text."""
        return find(request.body).size if VisionStage.serves(request.protocol) else 0

    async def __call__(
        self, request: Request, outcome: Outcome, headers: Headers, watching: asyncio.Task[Message]
    ) -> Outcome:
        """What becomes of a chat with its pictures.

        Args:
            request: as it came.
            outcome: of what was done with its texts.
            headers: of the request.
            watching: a call of ``receive`` that was begun.

        Raises:
            ClientGone: the client left.
            RequestError: a picture, or an option for pictures, cannot be used.
        """
        found = find(request.body) if self.serves(request.protocol) else None
        if not found:
            return outcome
        how = plan(self._settings, request.options.vision)
        reason = self._skip(found, self._enabled(request, outcome.decision))
        if reason is not None and not found.embeds:
            return _skipped(outcome, reason)
        work = asyncio.ensure_future(
            self._work(request, outcome, headers, found, how)
            if reason is None
            else self._unpruned(request, outcome, found, reason)
        )
        limit = self._settings.timeout_s
        try:
            if await done_in_time(work, watching, limit):
                return work.result()
            log.warning("the pictures of a request took longer than %s s", limit)
            return _failed(found, outcome, "timeout", f"its pictures took longer than {limit:g} s")
        except (ClientGone, RequestError):
            raise
        except _UnsupportedError as error:
            return _failed(found, outcome, error.reason, str(error))
        except TokenPruneError as error:
            self._log_once(str(error))
            return _failed(found, outcome, type(error).__name__, f"{type(error).__name__}: {error}")
        except Exception as error:
            # Whatever goes wrong in the model, the request must not be lost: logged, counted, visible.
            log.exception("pruning the pictures of a request failed")
            return _failed(found, outcome, type(error).__name__, f"{type(error).__name__}: {error}")
        finally:
            work.cancel()

    def _log_once(self, said: str) -> None:
        """Log an error that may come with every request."""
        if said not in self._said and len(self._said) < _MAX_SAID:
            self._said.add(said)
            log.error("pictures are not pruned: %s", " ".join(said.split()))

    def passing(self, outcome: Outcome) -> AbstractAsyncContextManager[None]:
        """Context around the call of the upstream: those with other numbers of rows are over before."""
        return self._rows.passing(None if outcome.pictures is None else outcome.pictures.rows)

    def watching(self, request: Request, outcome: Outcome, send: Send) -> Send:
        """A ``send`` that notices when the upstream refuses a chat whose pictures went as rows."""
        if outcome.pictures is None or outcome.pictures.stage != EMBEDS:
            return send

        async def passing(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _REFUSALS:
                self._support.doubt(request.body.get("model"))
            await send(message)

        return passing

    def _enabled(self, request: Request, decision: str) -> bool:
        """Whether pictures are pruned: as the request says of them, or else of all, or else the settings."""
        asked = None if request.options.vision is None else request.options.vision.enabled
        return self._settings.enabled and decision != skipped("disabled") if asked is None else asked

    def _skip(self, found: Found, enabled: bool) -> str | None:
        """Why pictures go as they came, or None to go on; raises RequestError for too many of them.

        ============ =========================================================================
        disabled      switched off by the request or by the settings
        not-fetched   a picture is given by URL, and the settings do not allow fetching
        mixed         rows and pictures, or pictures of other kinds: vLLM takes no mixture
        overloaded    the threads and their queue are full (also told later, of those that encode)
        ============ =========================================================================
        """
        if found.embeds and not found.pictures and not found.others:
            return None
        if not enabled:
            return "disabled"
        if found.others or (found.pictures and found.embeds):
            return "mixed"
        if len(found.pictures) > self._settings.max_images:
            raise RequestError(
                f"the request has {len(found.pictures)} pictures, and this server takes "
                f"{self._settings.max_images} (setting server.vision.max_images)",
                param="messages",
            )
        if not self._settings.allow_remote and any(picture.remote for picture in found.pictures):
            return "not-fetched"
        return "overloaded" if self._pool.waiting >= self._pool.max_waiting else None

    async def _unpruned(self, request: Request, outcome: Outcome, found: Found, reason: str) -> Outcome:
        """A request with rows of the client that is skipped: those that would end vLLM must not pass."""
        supported = self._support.known(request.body.get("model"))
        if supported in _TAKES_NONE:
            return _skipped(outcome, reason)
        if supported:
            raise _UnsupportedError(supported)
        counts = await self._pool.submit(lambda: self._check(found.embeds))
        return _skipped(outcome, reason, counts[0])

    async def _work(
        self,
        request: Request,
        outcome: Outcome,
        headers: Headers,
        found: Found,
        how: Plan,
    ) -> Outcome:
        model = request.body.get("model")
        supported = self._support.known(model)
        if supported:
            raise _UnsupportedError(supported)
        reduction: Reduction | None = None
        counts: tuple[int, ...] = ()
        if found.pictures:
            reduction = await self._reduced(found.pictures, how)
            if reduction is None:
                return _skipped(outcome, "overloaded")
        else:
            counts = await self._pool.submit(lambda: self._check(found.embeds))
        if supported is None:
            if self._probe is None:  # it is encoded as a picture that is new, but once
                self._probe = await self._encoders.submit(self._encoded_probe)
            keys = [(name, value) for name, value in headers if name == b"authorization"]
            supported = await self._support.ask(model, self._probe, keys)
            if supported != SUPPORTED:
                raise _UnsupportedError(supported)
        if reduction is None:
            return _skipped(outcome, "embeds-given", counts[0])
        if not self._rows.takes(reduction.counts):
            raise _UnsupportedError("unequal-rows")
        return self._done(request, outcome, found.pictures, how, reduction)

    async def _reduced(self, pictures: Sequence[Picture], how: Plan) -> Reduction | None:
        """What is left of the pictures; None when too many requests wait to have theirs encoded."""
        sources = await self._sources(pictures)
        groups = runs(pictures) if how.video else [[number] for number in range(len(pictures))]

        def look_up() -> tuple[list[File], Reduction | None]:
            files = open_files(pictures, sources, self._settings)
            return files, self._reducer.known(files, groups, how)

        files, known = await self._pool.submit(look_up)
        if known is not None:
            return known
        if self._encoders.waiting >= self._encoders.max_waiting:
            return None
        return await self._encoders.submit(lambda: self._reducer(files, groups, how))

    async def _sources(self, pictures: Sequence[Picture]) -> list[bytes | None]:
        """The files of remote pictures; None for those that stand in the request."""
        fetched: list[bytes | None] = []
        for picture in pictures:
            fetched.append(await self._fetch(picture) if picture.remote else None)
        return fetched

    def _check(self, embeds: Sequence[tuple[Path, object]]) -> tuple[int, ...]:
        """Refuse rows of the client that would make the upstream fail; how many there are in each part."""
        dimension = self._reducer.encoder().dimension
        counts = []
        for path, payload in embeds:
            place = ".".join(map(str, path))
            try:
                counts.append(check_payload(payload, dimension, self._settings.max_image_bytes))
            except VisionError as error:
                raise RequestError(f"{place}: {error}", param=place) from error
        if not self._rows.takes(counts):
            raise RequestError(f"image_embeds of {counts} rows: {WHY['unequal-rows']}", param="messages")
        return tuple(counts)

    def _encoded_probe(self) -> Probe:
        encoder = self._reducer.encoder()
        picture = probe_picture()
        rows = encoder.items([picture])[0].whole().features
        part = rows[:: max(2, len(rows) // 4)]
        with io.BytesIO() as file:
            picture.save(file, "PNG")
            url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        size = encoder.dimension
        return Probe(url, (encode_rows(rows, size), len(rows)), (encode_rows(part, size), len(part)))

    def _done(
        self, request: Request, outcome: Outcome, pictures: Sequence[Picture], how: Plan, reduction: Reduction
    ) -> Outcome:
        pairs = list(zip(pictures, reduction.rows, strict=True))
        # Contexts are put before the text of a message, or into it: paths are found in the body that goes.
        base = plain_body(request) if outcome.body is None else outcome.body
        places = [picture.path for picture in find(base).pictures]
        body = put(base, {path: rows.payload for path, rows in zip(places, reduction.rows, strict=True)})
        made = [
            PictureReceipt(
                picture.place,
                rows.sha256,
                how.name,
                how.keep,
                rows.views,
                rows.before,
                rows.kept,
                rows.ends,
                rows.merged,
                rows.note,
            )
            for picture, rows in pairs
        ]
        receipt = outcome.receipt
        if receipt is not None and outcome.steps:
            self._receipts.add_pictures(receipt, made)
        else:
            earlier = [] if receipt is None else [receipt]
            receipt = self._receipts.put("", [], earlier, made)
        noted = Pictures(
            EMBEDS,
            how.name,
            reduction.before,
            reduction.after,
            reduction.encoded,
            len(reduction.rows),
            reduction.counts[0],
        )
        # A failure with the texts stays visible, and decides what becomes of the request.
        fewer = reduction.after < reduction.before and not outcome.decision.startswith("failed:")
        return dataclasses.replace(
            outcome,
            decision=PRUNED if fewer else outcome.decision,
            body=body,
            receipt=receipt,
            # What pictures cost is not in the gate's model of texts.
            expected=None,
            steps={**outcome.steps, **reduction.seconds},
            pictures=noted,
        )


def picture_headers(pictures: Pictures | None) -> Headers:
    """What the response headers say of the pictures."""
    if pictures is None:
        return []
    headers = [(b"x-tokenprune-vision-stage", pictures.stage.encode())]
    if pictures.stage == EMBEDS:
        headers += [
            (b"x-tokenprune-vision-method", pictures.method.encode()),
            (b"x-tokenprune-image-tokens-before", b"%d" % pictures.before),
            (b"x-tokenprune-image-tokens-after", b"%d" % pictures.after),
        ]
    return headers


def _skipped(outcome: Outcome, reason: str, rows: int | None = None) -> Outcome:
    return dataclasses.replace(outcome, pictures=Pictures(skipped(reason), rows=rows))


def _failed(found: Found, outcome: Outcome, reason: str, detail: str) -> Outcome:
    """What became of the texts goes on; without it, the request goes as one whose pruning failed.

    Rows of the client do not go unchecked: such as would end vLLM end it for all.
    """
    if found.embeds and reason not in _TAKES_NONE:
        raise RequestError(f"image_embeds cannot be checked now: {detail}", status=503, param="messages")
    decision = outcome.decision if outcome.body is not None else failed(reason)
    return dataclasses.replace(
        outcome, decision=decision, detail=detail, pictures=Pictures(f"failed:{reason}")
    )
