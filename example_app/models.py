"""Loads the models in the installed package rapidocr; nothing is downloaded."""

import logging
import os
from pathlib import Path
from typing import Any

import cv2
import onnxruntime
import rapidocr
from omegaconf import OmegaConf
from rapidocr.ch_ppocr_cls import TextClassifier
from rapidocr.ch_ppocr_det import TextDetector
from rapidocr.ch_ppocr_rec import TextRecognizer
from rapidocr.utils.parse_parameters import ParseParams

PACKAGE = Path(rapidocr.__file__).parent

logging.getLogger("RapidOCR").setLevel(logging.WARNING)


def load_detector(**settings: Any) -> TextDetector:
    """Load the model that finds text lines in a picture."""
    return TextDetector(_configuration("Det", "PP-OCRv6_det_small.onnx", settings))


def load_classifier() -> TextClassifier:
    """Load the model that detects whether a text line is upside down."""
    return TextClassifier(_configuration("Cls", "ch_ppocr_mobile_v2.0_cls_mobile.onnx", {}))


def load_recogniser(**settings: Any) -> TextRecognizer:
    """Load the model that reads a text line."""
    return TextRecognizer(_configuration("Rec", "PP-OCRv6_rec_small.onnx", settings))


def _configuration(section: str, model: str, settings: dict[str, Any]) -> Any:
    # An own session avoids rapidocr's downloads and sets the number of threads.
    config = OmegaConf.create(ParseParams.load(PACKAGE / "config.yaml")[section], flags={"allow_objects": True})
    config.update({"session": _session(PACKAGE / "models" / model), "font_path": None, **settings})
    return config


def _session(model: Path) -> onnxruntime.InferenceSession:
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    cv2.setNumThreads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Pictures differ in size: an arena would grow to the largest one and stay there.
    options.enable_cpu_mem_arena = False
    # Several worker processes share the cores: waiting threads must not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
