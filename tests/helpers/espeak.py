"""Real speech for tests: what espeak-ng says (the test dependency espeakng-loader brings its library), at 16 kHz."""

import ctypes
import functools

import numpy as np
import pytest

RETRIEVAL = 1  # speak_lib.h: samples go to the callback, no device is opened
CHARS_UTF8 = 1


@functools.cache
def speech(text: str, voice: str = "en-us") -> np.ndarray:
    """Samples from -1 to 1, float32, 16,000 a second."""
    loader = pytest.importorskip("espeakng_loader", reason="the test dependency espeakng-loader is not installed")
    signal = pytest.importorskip("scipy.signal", reason="the test dependency scipy is not installed")
    library, rate = _library(loader)
    pieces: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int) -> int:
        if count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)
    spoken = text.encode()
    assert library.espeak_SetVoiceByName(voice.encode()) == 0, f"espeak-ng has no voice {voice}"
    assert library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken) + 1), 0, 0, 0, CHARS_UTF8, None, None) == 0
    assert library.espeak_Synchronize() == 0
    return signal.resample_poly(np.concatenate(pieces) / 32768, 16000, rate).astype(np.float32)


@functools.cache
def _library(loader: object) -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(loader.get_library_path())
    rate = library.espeak_Initialize(RETRIEVAL, 0, loader.get_data_path().encode(), 0)
    assert rate > 0, "espeak-ng does not start"
    return library, rate
