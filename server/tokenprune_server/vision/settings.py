"""Settings of visual token pruning: the mapping ``server.vision`` of the configuration file."""

from pydantic import BaseModel, ConfigDict, Field

from tokenprune_server.options import Keep, MethodOptions

NOT_SET_UP = "this server does not prune pictures: its configuration has no server.vision"


class VisionSettings(BaseModel):
    """Which pictures are pruned, how, and what is read at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        description="Vision part of the served model: a folder that `tokenprune vision export` wrote, or the "
        "checkpoint itself (a folder in Hugging Face layout, a named model or a hub name)."
    )
    enabled: bool = Field(True, description="Prune the pictures of requests that do not say otherwise.")
    method: str = Field(
        "fopru",
        description="How tokens are chosen, see `tokenprune vision methods`; options may stand behind the "
        "name, as in fopru:strategy=row.",
    )
    options: MethodOptions = Field(default_factory=dict, description="The method's other options.")
    keep: Keep = Field(
        0.25,
        description="Tokens that stay of each picture: a whole number, or a share (0.25, 25%); null or auto: "
        "as many as the method finds right, for methods that can tell.",
    )
    video: bool = Field(
        False,
        description="Pictures that follow each other in a message without text between them are the frames "
        "of one video, and `keep` holds for all of it.",
    )
    dtype: str | None = Field(
        None, description="Number format of the encoder; None: the fastest that is good."
    )
    device: str | None = Field(
        None, description="Where the encoder runs; None: an accelerator, or else the CPU."
    )
    questions: bool = Field(
        False,
        description="Load the language model of `model` too, which must be a whole checkpoint, to answer "
        "questions on /playground; chats never need it here.",
    )
    max_images: int = Field(64, ge=1, description="Pictures of one request; more are refused.")
    max_pixels: int = Field(40_000_000, ge=1, description="Pixels of one picture; more are refused.")
    max_total_pixels: int = Field(
        150_000_000, ge=1, description="Pixels of all pictures of one request; more are refused."
    )
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="Bytes of one picture file; more are refused.")
    cache_max_bytes: int = Field(
        256 * 2**20, ge=0, description="Bytes kept of encoded pictures, by the hash of their files."
    )
    unequal_rows: bool = Field(
        False,
        description="Pictures with different numbers of tokens may be with the upstream at the same time. "
        "vLLM 0.32 ends when they are, unless this project is installed beside it, whose plugin prevents it. "
        "False: a request waits until those with other numbers are answered.",
    )
    allow_remote: bool = Field(
        False,
        description="Fetch pictures that are given by http(s) URL. Otherwise a request with such pictures "
        "goes as it came, and the upstream may fetch them.",
    )
    allow_private: bool = Field(
        False, description="Also fetch from addresses that are not public (loopback, private networks)."
    )
    remote_timeout_s: float = Field(10.0, gt=0, description="Deadline for fetching one picture, seconds.")
    timeout_s: float = Field(
        30.0, gt=0, description="Deadline for all work on a request's pictures, seconds."
    )
