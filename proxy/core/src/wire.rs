//! Wire to model and back, side by side: what decodes here is well-formed.
