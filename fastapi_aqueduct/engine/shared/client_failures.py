"""The tasks of an API process that have failed in the pipeline process: hands them to the recorder."""

from __future__ import annotations

from functools import partial

from ..recorder import FailedTask, RecordedTasks, Recording
from ..wire.codec import Codec
from ..wire.failures import decode_error
from .client_memory import ClientMemory
from .failure_desk import SentFailure
from .messages import unpack_message


class ClientFailures:
    """Hands tasks to the recorder, and keeps where they are recorded until their answers come.

    Args:
        flow: Name of the flow.
        recording: Has the recorder.
        memory: The shared memory.
        codec: Decodes tasks.

    Attributes:
        recorded: Where the tasks are recorded of which the end has not come, by their numbers.
    """

    def __init__(self, flow: str, recording: Recording, memory: ClientMemory, codec: Codec) -> None:
        self.recorded = RecordedTasks[int]()
        self._flow = flow
        self._recording = recording
        self._memory = memory
        self._codec = codec

    def receive(self, payload: bytes) -> None:
        """Handle the payload of a frame of kind RECORD.

        Raises:
            ProtocolError: It makes no sense.
        """
        failure, error, content = unpack_message(payload, SentFailure)
        self._memory.accept(content.blocks)
        try:
            exception = decode_error(error, f"step {failure.step} of flow {self._flow}")
            decode = partial(self._codec.decode, content)
            task = FailedTask(self._flow, failure, exception, decode, self._recording)
            self.recorded.add(failure.number, self._recording.record(task))
        finally:
            self._memory.drop(content.blocks)
