//! Policy documents: YAML and JSON as people write them, to and from the model.
