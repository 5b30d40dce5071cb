//! The promises of the whole, on real processes.

mod api;
mod backup;
mod clients;
mod control;
mod grpc;
mod killed;
mod memory;
mod nginx;
mod overload;
mod postgres;
mod redis;
mod request;
mod retry;
mod rolling;
mod rollout;
mod rotation;
mod run;
mod server_first;
mod stop;
mod survival;
mod vanished;
mod verbs;
mod websocket;

/// One destination `price`, backed by the account of the same name.
pub(crate) const PRICE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec:
  ports: [{port: 80, name: http, protocol: HTTP}]
";

/// One destination with one port, backed by the account of the same name.
pub(crate) fn service(name: &str, port: &str) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {{name: {name}, namespace: demo}}
spec:
  ports: [{{{port}}}]
"
    )
}

/// Two versions of `price` behind it, told apart by the label of their tokens, and a route that splits between them.
pub(crate) fn versions(weight_v1: u32, weight_v2: u32) -> String {
    let mut documents = PRICE.to_owned();
    for version in ["v1", "v2"] {
        documents += &format!(
            "---
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {{name: price-{version}, namespace: demo}}
spec:
  ports: [{{port: 80, name: http, protocol: HTTP}}]
  serviceAccounts: [price]
  selector: {{version: {version}}}
"
        );
    }
    documents
        + &format!(
            "---
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {{name: price, namespace: demo}}
spec:
  parentRefs: [{{name: price}}]
  rules:
  - backendRefs:
    - {{name: price-v1, port: 80, weight: {weight_v1}}}
    - {{name: price-v2, port: 80, weight: {weight_v2}}}
"
        )
}
