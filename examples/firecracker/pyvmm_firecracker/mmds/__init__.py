"""The metadata service: the guest reads what the API's ``/mmds`` was given, by HTTP from an address of the link.

``service.py`` exchanges frames with the machine's network card, ``endpoint.py`` answers them, ``tcp.py`` is a
connection, ``packets.py`` has the formats, and ``store.py`` and ``answers.py`` what HTTP requests get.
"""
