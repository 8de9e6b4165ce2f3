"""See what a dictionary has learned: the pass over held-out tokens, the numbers of every feature, the site.

duck · manifest · store       what lies in `explore/`
harvest                       the one pass of the model
feature · examples · windows  one feature, from its entries
coactivation · geometry · logits · labels
derive                        all of them, member by member
site                          the page's data
build                         `unmix explore --build`
"""
