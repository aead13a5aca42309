# The tier `api`, sourced by start: etcd and kube-apiserver; and what more of the latter others want.

more=()
if [[ $tier == scale ]]; then
  # Whoever counts what the control plane asks for reads it here: metrics do not say who has asked.
  export CLUSTER_AUDIT=$log/audit.log
  cat >"$work/audit.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, users: ["system:serviceaccount:jitney-system:jitney-control-plane"]}
  - {level: None}
YAML
  more=(--audit-policy-file="$work/audit.yaml" --audit-log-path="$CLUSTER_AUDIT")
  # kwok watches from version 0, which lists first where the server knows how. That needs a later etcd than Debian's:
  # the watch is refused, and kwok hears of a change only when it tries the next time, up to a minute later.
  more+=(--feature-gates=WatchList=false)
fi

run etcd etcd --data-dir "$work/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
  --initial-cluster default=http://127.0.0.1:2380

pki=$work/pki
run kube-apiserver kube-apiserver "${more[@]}" \
  --etcd-servers=http://127.0.0.1:2379 \
  --bind-address="$address" --advertise-address="$address" --secure-port=6443 \
  --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true --profiling=false \
  --authorization-mode=Node,RBAC --client-ca-file="$pki/ca.crt" \
  --tls-cert-file="$pki/serving.crt" --tls-private-key-file="$pki/serving.key" \
  --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key" \
  --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
  --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy-client \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key"

api_ready() {
  await "kube-apiserver is ready" kubectl get --raw /readyz
}

# start_controller_manager FLAG...
start_controller_manager() {
  run kube-controller-manager kube-controller-manager --kubeconfig="$KUBECONFIG" "${busy[@]}" \
    --root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/accounts.key" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" "$@"
}
# What one of them does not wait for, as it is the only one.
busy=(--kube-api-qps=500 --kube-api-burst=1000 --leader-elect=false --bind-address=127.0.0.1)

accounts_are_there() {
  await "accounts are there" kubectl get serviceaccount default
}
[[ $tier != api ]] || api_ready
