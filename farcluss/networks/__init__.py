"""Networks: builders of the group `farcluss.network` and the contract they keep (`farcluss.networks.base`).

Nothing is imported here, so that listing networks and checking a recipe need no torch.
"""
