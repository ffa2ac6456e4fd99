"""Tells schemathesis that content of any type is bytes, also where it would rather send text."""

import schemathesis
from hypothesis import strategies as st

for kind in ("image/*", "image/png", "text/plain"):
    schemathesis.openapi.media_type(kind, st.binary(min_size=1, max_size=500))
