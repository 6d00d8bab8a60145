"""The rules of the contract, one after the other."""
