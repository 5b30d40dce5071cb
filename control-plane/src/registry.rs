//! What runs where: registered by sidecars over a leased stream.
