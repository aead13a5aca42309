# The tier `scale`, sourced by start: controllers, and nodes and pods that are there as soon as somebody says so.

api_ready
start_controller_manager
run kwok kwok --kubeconfig="$KUBECONFIG" --config="$CLUSTER_TOOLS/kwok-stages.yaml" --manage-all-nodes=true \
  --node-lease-duration-seconds=40 --node-ip="$address"
accounts_are_there
