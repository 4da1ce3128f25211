"""Networks: plugins of the group `farcluss.network` and their contract (`farcluss.networks.base`).

Nothing is imported here, so that listing networks and checking a recipe need no torch.
"""
