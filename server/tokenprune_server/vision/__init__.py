"""Visual token pruning in front of an upstream that takes embeddings in place of pictures.

Pictures of a chat go through the served model's own vision tower and projector here, a method says which of
their tokens stay, and the rows of those go on as ``image_embeds`` parts. What the upstream cannot take goes
as it came.
"""
