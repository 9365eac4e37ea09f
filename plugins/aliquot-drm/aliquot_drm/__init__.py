"""AMD's and Intel's devices from sysfs and DRM fdinfo: a plug-in of ``aliquot.vendors``.

It needs nothing of the agent but the protocol: ``aliquot.agent.devices``, ``aliquot.hooks.plan``.
"""
