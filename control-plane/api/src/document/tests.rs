//! Documents are read as Kubernetes prints them.

use super::*;

#[test]
fn what_kubectl_prints_can_be_read() {
    let text = "
apiVersion: jitney.dev/v1alpha1
kind: Backend
metadata:
  name: users
  namespace: shop
  uid: 6f
  resourceVersion: '12'
  generation: 3
  creationTimestamp: '2026-01-01T00:00:00Z'
  labels: {app: users}
  annotations: {note: 'yes'}
  managedFields: [{manager: kubectl}]
  generateName: users-
  finalizers: [example.org/audit]
  ownerReferences: [{kind: Application, name: shop}]
  deletionTimestamp: '2026-01-02T00:00:00Z'
  deletionGracePeriodSeconds: 0
spec: {endpoints: ['a:1']}
status: {conditions: []}
";
    let documents = Documents::read(&Sources::inline("f", text));
    assert_eq!(documents.faults, []);
    let metadata = documents.documents[0].resource.metadata();
    assert_eq!(
        (metadata.name.as_str(), metadata.namespace.as_deref()),
        ("users", Some("shop"))
    );
}

#[test]
fn written_documents_read_back() {
    let text = "{kind: BatchPolicy, metadata: {name: a}, spec: {routes: [{codec: {preset: tei-embed}}], traffic: {}}}";
    let documents = Documents::read(&Sources::inline("f", text));
    let Resource::BatchPolicy(policy) = &documents.documents[0].resource else {
        panic!("a policy")
    };
    let written = serde_json::to_string(policy).unwrap();
    let again = Documents::read(&Sources::inline("f", &written));
    assert_eq!(again.faults, []);
    assert_eq!(again.documents[0].resource, documents.documents[0].resource);
}
