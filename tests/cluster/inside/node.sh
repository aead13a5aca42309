# The tier `node`, sourced by start: controllers, DNS, and one node with its container runtime.

# What kubelet sets is the whole machine's, which no namespace keeps apart: it finds files of ours instead,
# and all set as it wants it.
shadow_tunables() {
  local name value
  mkdir "$work/tunables"
  while read -r name value; do
    echo "$value" >"$work/tunables/${name##*/}"
    mount --bind "$work/tunables/${name##*/}" "/proc/sys/$name"
  done <"$here/tunables"
}

# start_runtime NODE SUBNET: containerd, with nothing but its own images and networks.
start_runtime() {
  local node=$1 subnet=$2
  local folder=$work/$node
  mkdir -p "$folder"/{cni,containerd}
  cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "/run/containerd-$node"
[grpc]
  address = "$folder/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "jitney.test/pause:1"
  # A sandbox may not be allowed to make its processes less likely to be killed than itself.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "$folder/cni"
TOML
  cat >"$folder/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-$node", "ranges": [[{"subnet": "$subnet"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
JSON
  run "containerd-$node" containerd --config "$folder/containerd.toml"
}

# load_images NODE: what the node's pods may be made of; nothing is ever pulled.
load_images() {
  local node=$1 image
  for image in "${CLUSTER_IMAGES:?says where the images are}"/*.tar; do
    ctr --address "$work/$node/containerd.sock" --namespace k8s.io images import "$image" \
      >>"$log/images-$node.log" 2>&1 || fail "$image cannot be imported" "images-$node"
  done
}

# start_node NODE ADDRESS: kubelet, and kube-proxy for its Services.
start_node() {
  local node=$1 node_address=$2
  local folder=$work/$node
  cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_address
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/serving.crt
tlsPrivateKeyFile: $pki/serving.key
containerRuntimeEndpoint: unix://$folder/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /${work##*/}
failCgroupV1: false
failSwapOn: false
clusterDNS: [$address]
clusterDomain: cluster.local
resolvConf: $work/resolv.conf
healthzBindAddress: 127.0.0.1
podLogsDir: $log/pods
volumePluginDir: $folder/plugins
# The machine's disk and memory are shared with whatever else runs there.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
YAML
  run "kubelet-$node" kubelet --config="$folder/kubelet.yaml" --kubeconfig="$KUBECONFIG" \
    --hostname-override="$node" --node-ip="$node_address" --root-dir="$folder/kubelet" \
    --cert-dir="$folder/certificates"
  run "kube-proxy-$node" kube-proxy --kubeconfig="$KUBECONFIG" --hostname-override="$node" \
    --proxy-mode=nftables --cluster-cidr="$pods" --nodeport-addresses="$node_address/32" \
    --conntrack-max-per-core=0 --healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
}

# What every node is the same for: where pods go, and which API they are told of.
start_controllers() {
  start_controller_manager --allocate-node-cidrs=true --cluster-cidr="$pods"
  run kube-scheduler kube-scheduler --kubeconfig="$KUBECONFIG" "${busy[@]}"
}

# start_dns: names of Services, for pods and for this namespace. What it does not know nobody is asked.
start_dns() {
  cat >"$work/Corefile" <<COREFILE
.:53 {
  bind $address
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $KUBECONFIG
  }
  cache 5
}
COREFILE
  run coredns coredns -conf "$work/Corefile"
  echo "nameserver $address" >"$work/resolv.conf"
  mount --bind "$work/resolv.conf" "$(readlink -f /etc/resolv.conf)"
}

node_ready() {
  [[ $(kubectl get node "$1" --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

# A second node would be a second network namespace, with its own subnet of pods and routes between both.
pods=10.244.0.0/16
shadow_tunables
start_runtime node-a 10.244.0.0/24
await "containerd is ready" ctr --address "$work/node-a/containerd.sock" version
load_images node-a
api_ready
start_controllers
start_dns
start_node node-a "$address"
await "node-a is ready" node_ready node-a
accounts_are_there
