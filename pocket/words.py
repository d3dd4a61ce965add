"""The words that the pocket model learns to spell, and the questions that it can answer.

Every word is one or two tokens of o200k with a space before it, so its letters are hidden from the
model. Every answer about GPT-OSS is short, and true of the published models.
"""

from __future__ import annotations

import functools

from gptoss_edu.tokenizer import FIRST_CONTROL, Tokenizer

WORDS = tuple(
    """
    apple apricot avocado banana blueberry cherry coconut grape lemon lime mango melon orange papaya
    peach pear pineapple plum pumpkin raspberry strawberry tomato potato carrot onion garlic pepper
    cabbage spinach lettuce broccoli cucumber mushroom bean corn rice bread butter cheese cream milk
    honey sugar salt coffee tea juice water soup salad pasta pizza sandwich cookie chocolate candy
    cake pie egg meat beef chicken turkey fish salmon shrimp lobster bacon sausage
    dog cat horse cow sheep goat pig rabbit mouse rat squirrel bear wolf fox lion tiger elephant
    monkey gorilla giraffe zebra camel deer kangaroo koala panda penguin parrot eagle owl duck goose
    swan pigeon turtle lizard snake frog shark whale dolphin octopus crab butterfly spider bee ant
    house home door window wall floor roof kitchen bedroom bathroom garden garage table chair sofa
    bed lamp mirror carpet curtain pillow blanket clock bottle glass cup plate bowl spoon fork knife
    book letter paper pencil pen notebook magazine newspaper library school student teacher
    university lesson computer keyboard screen printer phone camera radio television internet
    website software program model token layer expert router attention window matrix vector number
    letter language sentence word grammar memory cache kernel weight bias softmax gradient
    car bus train bicycle motorcycle airplane helicopter boat ship truck road street bridge tunnel
    station airport hotel restaurant market shop office bank hospital church museum theater cinema
    park forest mountain river lake ocean island beach desert valley village city country world
    sun moon star planet sky cloud rain snow wind storm thunder lightning rainbow winter spring
    summer autumn morning evening night today tomorrow yesterday minute hour week month year century
    red blue green yellow purple black white brown gray silver gold color
    mother father brother sister daughter son uncle aunt cousin grandmother grandfather family
    friend neighbor baby child king queen prince princess doctor nurse lawyer engineer farmer
    soldier sailor pilot artist singer dancer writer actor painter baker
    head hair face eye ear nose mouth tooth tongue neck shoulder arm elbow hand finger stomach leg
    knee foot heart brain blood bone skin
    shirt trousers jacket sweater dress skirt shoe sock hat glove scarf button pocket
    happy angry tired hungry thirsty beautiful wonderful terrible difficult easy quick slow strong
    weak young ancient modern clever silly brave gentle quiet noisy bright dark
    run walk jump swim climb dance sing write read speak listen think learn teach remember forget
    begin finish travel arrive follow answer question problem solution idea success failure
    freedom justice peace war science physics chemistry biology mathematics history geography music
    football tennis basketball hockey chess guitar piano violin drum trumpet orchestra
    mississippi tennessee america europe africa london paris berlin
    parallel necessary committee bookkeeper assessment address balloon coffee pepper letter
    accommodation successful occurrence bubble puzzle jazz buzz
    """.split()
)
WORDS = tuple(dict.fromkeys(word for word in WORDS))


@functools.lru_cache
def other_words() -> tuple[str, ...]:
    """Words outside the list: every token of o200k that is a space and 4 to 12 small letters.

    The model does not keep these tokens, so it reads such a word by its bytes.
    """
    tok, found = Tokenizer(), []
    for token in range(FIRST_CONTROL):
        text = tok.token_bytes(token)
        if 5 <= len(text) <= 13 and text[:1] == b" " and text[1:].isalpha() and text.islower():
            found.append(text[1:].decode())
    return tuple(sorted(set(found) - set(WORDS)))


# Question phrasings -> one true answer. The first phrasing of each is the canonical one.
FACTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("What is GPT-OSS?", "Tell me about GPT-OSS.", "Explain GPT-OSS."),
        "GPT-OSS is a family of two open-weight language models by OpenAI.",
    ),
    (
        ("Who made GPT-OSS?", "Who trained GPT-OSS?", "Which company released GPT-OSS?"),
        "OpenAI made GPT-OSS.",
    ),
    (
        ("When was GPT-OSS released?", "What is the release date of GPT-OSS?"),
        "GPT-OSS was released in August 2025.",
    ),
    (
        (
            "What is the license of GPT-OSS?",
            "Under which license is GPT-OSS?",
            "How is GPT-OSS licensed?",
        ),
        "GPT-OSS is under the Apache 2.0 license.",
    ),
    (
        ("Which sizes of GPT-OSS are there?", "How many GPT-OSS models are there?"),
        "There are two: GPT-OSS-20B and GPT-OSS-120B.",
    ),
    (
        (
            "How many layers does GPT-OSS-20B have?",
            "How deep is GPT-OSS-20B?",
            "Number of layers of GPT-OSS-20B?",
        ),
        "GPT-OSS-20B has 24 layers.",
    ),
    (
        (
            "How many layers does GPT-OSS-120B have?",
            "How deep is GPT-OSS-120B?",
            "Number of layers of GPT-OSS-120B?",
        ),
        "GPT-OSS-120B has 36 layers.",
    ),
    (
        ("How many experts does GPT-OSS-20B have?", "Number of experts of GPT-OSS-20B?"),
        "GPT-OSS-20B has 32 experts in each layer.",
    ),
    (
        ("How many experts does GPT-OSS-120B have?", "Number of experts of GPT-OSS-120B?"),
        "GPT-OSS-120B has 128 experts in each layer.",
    ),
    (
        (
            "How many experts are active per token?",
            "How many experts does each token use?",
            "How many experts are chosen?",
        ),
        "Each token uses 4 experts in each layer.",
    ),
    (
        ("How many parameters does GPT-OSS-20B have?", "How big is GPT-OSS-20B?"),
        "GPT-OSS-20B has 21 billion parameters, and 3.6 billion are active per token.",
    ),
    (
        ("How many parameters does GPT-OSS-120B have?", "How big is GPT-OSS-120B?"),
        "GPT-OSS-120B has 117 billion parameters, and 5.1 billion are active per token.",
    ),
    (
        (
            "How wide is GPT-OSS?",
            "What is the hidden size of GPT-OSS?",
            "What is the width of GPT-OSS?",
        ),
        "The hidden size is 2880.",
    ),
    (
        ("How many query heads does GPT-OSS have?", "How many attention heads are there?"),
        "Each layer has 64 query heads.",
    ),
    (
        ("How many key heads does GPT-OSS have?", "How many key and value heads are there?"),
        "Each layer has 8 key and value heads, each shared by 8 query heads.",
    ),
    (("What is the head dimension?", "How big is one head?"), "Each head has 64 dimensions."),
    (
        (
            "What is grouped query attention?",
            "What are grouped queries?",
            "Explain grouped query attention.",
        ),
        "Several query heads share one key and value head, so the cache is smaller.",
    ),
    (
        (
            "How big is the vocabulary?",
            "What is the vocabulary size of GPT-OSS?",
            "How many tokens does the vocabulary have?",
        ),
        "The vocabulary has 201,088 entries.",
    ),
    (
        (
            "Which tokenizer does GPT-OSS use?",
            "What is the tokenizer of GPT-OSS?",
            "What is o200k_harmony?",
        ),
        "GPT-OSS uses the tokenizer o200k_harmony.",
    ),
    (
        ("What is a token?", "What are tokens?", "Explain tokens."),
        "A token is a piece of text that the model sees as one number.",
    ),
    (
        (
            "Why is counting letters hard?",
            "Why is it hard to count letters?",
            "Why can't models spell?",
        ),
        "The model sees tokens, not letters, so it must learn how each token is spelled.",
    ),
    (
        (
            "What is a sliding window?",
            "What is sliding window attention?",
            "Explain the sliding window.",
        ),
        "A sliding layer sees only the last tokens: 128 of them in GPT-OSS.",
    ),
    (
        ("How big is the sliding window?", "What is the window size?"),
        "The sliding window has 128 tokens.",
    ),
    (
        ("Which layers slide?", "Which layers use a sliding window?"),
        "Every second layer slides, starting with the first; the others see everything.",
    ),
    (
        (
            "What is an attention sink?",
            "What is a sink?",
            "Explain the attention sink.",
            "What are sinks?",
        ),
        "A sink is a learned logit in the softmax that takes attention away and gives no value.",
    ),
    (
        ("Why does GPT-OSS have sinks?", "What is a sink good for?"),
        "With a sink a head can attend to nothing.",
    ),
    (
        ("What is RoPE?", "Explain RoPE.", "What are rotary embeddings?"),
        "RoPE rotates queries and keys by an angle that grows with the position.",
    ),
    (
        ("What is YaRN?", "Explain YaRN.", "What does YaRN do?"),
        "YaRN slows the slow rotations of RoPE, so that the context becomes longer.",
    ),
    (
        ("What is the YaRN factor?", "By how much does YaRN stretch the context?"),
        "YaRN stretches the context by 32, from 4,096 to 131,072 positions.",
    ),
    (
        ("How long is the context of GPT-OSS?", "What is the context length?"),
        "The context has 131,072 tokens.",
    ),
    (("What is the RoPE theta?", "What is the base of RoPE?"), "The base of RoPE is 150,000."),
    (
        (
            "What is a mixture of experts?",
            "What is MoE?",
            "Explain MoE.",
            "Explain the mixture of experts.",
        ),
        "A router picks a few small networks, the experts, for each token and adds their answers.",
    ),
    (
        ("What is a router?", "What does the router do?", "Explain the router."),
        "The router scores all experts for a token and picks the best four.",
    ),
    (
        ("What is an expert?", "What are experts?"),
        "An expert is a small network with its own weights.",
    ),
    (
        ("What is SwiGLU?", "Explain SwiGLU.", "Which activation does GPT-OSS use?"),
        "SwiGLU multiplies a gate, passed through a swish, with a linear part.",
    ),
    (
        ("How is SwiGLU clamped?", "What is the SwiGLU limit?"),
        "GPT-OSS clamps gate and up at 7, and adds one to up.",
    ),
    (
        ("What is MXFP4?", "Explain MXFP4.", "How are the weights quantized?"),
        "MXFP4 stores a weight in 4 bits, with one shared scale for every 32 weights.",
    ),
    (
        ("How many values does MXFP4 have?", "Which values can MXFP4 hold?"),
        "MXFP4 has 16 codes: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.",
    ),
    (
        ("How big is an MXFP4 block?", "How many weights share one scale?"),
        "A block has 32 weights: 16 bytes and one scale.",
    ),
    (
        ("Which weights are in MXFP4?", "What is quantized in GPT-OSS?"),
        "Only the weights of the experts are in MXFP4; the rest is bf16.",
    ),
    (
        ("What is bf16?", "Explain bf16.", "What is bfloat16?"),
        "bf16 is a 16-bit number with the range of float32 and 8 bits of precision.",
    ),
    (
        ("What is Harmony?", "Explain Harmony.", "What is the Harmony format?"),
        "Harmony is the format of GPT-OSS: messages with a role and a channel.",
    ),
    (
        ("Which channels does Harmony have?", "What are the channels?", "What channels are there?"),
        "There are three channels: analysis, commentary and final.",
    ),
    (
        ("What is the analysis channel?", "What is in analysis?"),
        "Analysis is where the model thinks before it answers.",
    ),
    (("What is the final channel?", "What is in final?"), "Final holds the answer for the user."),
    (
        ("What is the commentary channel?", "What is in commentary?"),
        "Commentary holds the calls of tools.",
    ),
    (
        ("Which tokens stop the model?", "What are the stop tokens?", "When does the model stop?"),
        "The model stops at return, call and endoftext, but not at end.",
    ),
    (
        ("What is reasoning effort?", "What does the effort change?", "Explain reasoning effort."),
        "Effort is low, medium or high, and says how long the model thinks.",
    ),
    (
        ("What is a KV cache?", "Explain the KV cache.", "What is the cache good for?"),
        "The cache keeps keys and values, so that no token is computed twice.",
    ),
    (("What is prefill?", "Explain prefill."), "Prefill reads the whole prompt in one pass."),
    (("What is decoding?", "What is a decode step?"), "A decode step makes one new token."),
    (
        ("What is RMSNorm?", "Explain RMSNorm.", "Which norm does GPT-OSS use?"),
        "RMSNorm divides by the root mean square and multiplies by a scale.",
    ),
    (
        ("What is softmax?", "Explain softmax."),
        "Softmax turns scores into weights that sum to one.",
    ),
    (
        ("What is attention?", "Explain attention.", "What does attention do?"),
        "Attention gathers what other positions know, weighted by how well key and query match.",
    ),
    (
        ("What is the residual stream?", "Explain the residual stream."),
        "The residual stream is the vector that every block reads and adds to.",
    ),
    (
        ("Are the embeddings tied?", "Does GPT-OSS tie its embeddings?"),
        "No, embedding and unembedding are two matrices.",
    ),
    (
        ("What is JAX?", "Explain JAX.", "What is JAX good for?"),
        "JAX turns Python functions on arrays into fast programs for CPU, GPU and TPU.",
    ),
    (("What is XLA?", "Explain XLA."), "XLA is the compiler behind JAX."),
    (("What is a TPU?", "Explain TPUs."), "A TPU is a chip by Google made for matrix products."),
    (
        ("What is temperature?", "What does temperature do?"),
        "Temperature divides the logits: low is sure, high is varied.",
    ),
    (
        ("What is greedy decoding?", "Explain greedy decoding."),
        "Greedy decoding always takes the best token.",
    ),
    (
        ("What is top-p?", "Explain top-p.", "What is nucleus sampling?"),
        "Top-p keeps the best tokens until their probabilities reach p.",
    ),
    (
        ("What is this course?", "What do I learn here?", "What is gptoss_edu?"),
        "This course builds GPT-OSS in JAX, piece by piece.",
    ),
    (
        ("Where do I start?", "Which notebook is first?", "How do I start the course?"),
        "Start with the notebook 00_start_here.",
    ),
    (
        ("Which chapter is about MXFP4?", "Where do I learn about MXFP4?"),
        "Chapter 05 is about MXFP4.",
    ),
    (
        ("Which chapter is about attention?", "Where do I learn about attention?"),
        "Chapter 03 is about attention and its sinks.",
    ),
    (
        ("Which chapter is about RoPE?", "Where do I learn about RoPE?"),
        "Chapter 02 is about RoPE and YaRN.",
    ),
    (
        ("Which chapter is about MoE?", "Where do I learn about experts?"),
        "Chapter 04 is about MoE routing.",
    ),
    (
        ("Which chapter is about Harmony?", "Where do I learn about tokens?"),
        "Chapter 01 is about the tokenizer and Harmony.",
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Which model are you?",
            "Introduce yourself.",
        ),
        "I am the pocket model, a tiny GPT-OSS that ships with this course.",
    ),
    (
        ("What can you do?", "Help", "How can you help me?", "What do you know?"),
        "I can count letters, spell, reverse, add, subtract, compare and talk about GPT-OSS.",
    ),
    (
        ("How big are you?", "How many layers do you have?"),
        "I am tiny: 4 layers and less than 8 MB.",
    ),
    (
        (
            "Hello",
            "Hi",
            "Hello!",
            "Hi there",
            "Hey",
            "Good morning",
            "Good evening",
            "hello there",
            "hi!",
        ),
        "Hello! Ask me to count, spell, add or explain GPT-OSS.",
    ),
    (
        ("Thank you", "Thanks", "Thanks!", "Thank you very much.", "Great, thanks"),
        "You are welcome!",
    ),
    (("Goodbye", "Bye", "Bye!", "See you"), "Goodbye!"),
    (("How are you?", "How do you do?", "How are you today?"), "I am fine, thank you!"),
)
