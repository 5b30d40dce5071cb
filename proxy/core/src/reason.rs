//! Every answer that the proxy makes by itself: one closed list.
