"""Adapters to other ecosystems; none of them is needed by `jaxarena` itself."""
