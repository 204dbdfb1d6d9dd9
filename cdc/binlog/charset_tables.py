"""What the servers' charsets are where no codec of Python's is exactly that.

Taken from the servers' own conversion (tests/support/charset_cells.py), and the same on MySQL 9.7, MariaDB 10.11 and
11.8: tests/integration/test_binlog_types.py compares every cell with each.
U+FFFE, or `-`, stands for a byte sequence that the server cannot convert (it prints `?` or U+FFFD).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MULTI_BYTE", "SINGLE_BYTE"]

# charset: the characters of bytes 0 to 127 that are not ASCII's, and those of bytes 128 to 255
SINGLE_BYTE: Mapping[str, tuple[Mapping[int, str], str]] = {
    "armscii8": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0❁§։)(»«—.՝,-՟…՜՛՞ԱաԲբԳգԴդԵեԶզԷէ"
            "ԸըԹթԺժԻիԼլԽխԾծԿկՀհՁձՂղՃճՄմՅյՆնՇշ"
            "ՈոՉչՊպՋջՌռՍսՎվՏտՐրՑցՒւՓփՔքՕօՖֆ’'"
        ),
    ),
    "cp1250": (
        {},
        (
            "€\ufffe‚\ufffe„…†‡\ufffe‰Š‹ŚŤŽŹ\ufffe‘’“”•–—\ufffe™š›śťžź"
            "\xa0ˇ˘Ł¤Ą¦§¨©Ş«¬\xad®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż"
            "ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß"
            "ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙"
        ),
    ),
    "cp1251": (
        {},
        (
            "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\ufffe™љ›њќћџ"
            "\xa0ЎўЈ¤Ґ¦§Ё©Є«¬\xad®Ї°±Ііґµ¶·ё№є»јЅѕї"
            "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ"
            "абвгдежзийклмнопрстуфхцчшщъыьэюя"
        ),
    ),
    "cp1256": (
        {},
        (
            "€\u067e‚ƒ„…†‡ˆ‰\ufffe‹Œ\u0686\u0698\ufffe\u06af‘’“”•–—\ufffe™\ufffe›œ\u200c\u200d\ufffe"
            "\xa0\u060c¢£¤¥¦§¨©\ufffe«¬\xad®¯°±²³´µ¶·¸¹\u061b»¼½¾\u061f"
            "\ufffe\u0621\u0622\u0623\u0624\u0625\u0626\u0627\u0628\u0629\u062a\u062b\u062c\u062d\u062e\u062f\u0630\u0631\u0632\u0633\u0634\u0635\u0636×\u0637\u0638\u0639\u063a\u0640\u0641\u0642\u0643"
            "à\u0644â\u0645\u0646\u0647\u0648çèéêë\u0649\u064aîï\u064b\u064c\u064d\u064eô\u064f\u0650÷\u0651ù\u0652ûü\u200e\u200f\ufffe"
        ),
    ),
    "cp1257": (
        {},
        (
            "€\ufffe‚\ufffe„…†‡\ufffe‰\ufffe‹\ufffe¨ˇ¸\ufffe‘’“”•–—\ufffe™\ufffe›\ufffe¯˛\ufffe"
            "\xa0\ufffe¢£¤\ufffe¦§Ø©Ŗ«¬\xad®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ"
            "ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß"
            "ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙"
        ),
    ),
    "cp850": (
        {},
        (
            "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒ"
            "áíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐"
            "└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀"
            "ÓßÔÒõÕµþÞÚÛÙýÝ¯´\xad±‗¾¶§÷¸°¨·¹³²■\xa0"
        ),
    ),
    "cp852": (
        {},
        (
            "ÇüéâäůćçłëŐőîŹÄĆÉĹĺôöĽľŚśÖÜŤťŁ×č"
            "áíóúĄąŽžĘę¬źČş«»░▒▓│┤ÁÂĚŞ╣║╗╝Żż┐"
            "└┴┬├─┼Ăă╚╔╩╦╠═╬¤đĐĎËďŇÍÎě┘┌█▄ŢŮ▀"
            "ÓßÔŃńňŠšŔÚŕŰýÝţ´\xad˝˛ˇ˘§÷¸°¨˙űŘř■\xa0"
        ),
    ),
    "cp866": (
        {},
        (
            "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ"
            "абвгдежзийклмноп░▒▓│┤╡╢╖╕╣║╗╝╜╛┐"
            "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀"
            "рстуфхцчшщъыьэюяЁёЄєЇїЎў°∙·√ⁿ²■\xa0"
        ),
    ),
    "dec8": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0¡¢£\ufffe¥\ufffe§¤©ª«\ufffe\ufffe\ufffe\ufffe°±²³\ufffeµ¶·\ufffe¹º»¼½\ufffe¿"
            "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ\ufffeÑÒÓÔÕÖŒØÙÚÛÜŸ\ufffeß"
            "àáâãäåæçèéêëìíîï\ufffeñòóôõöœøùúûüÿ\ufffe\ufffe"
        ),
    ),
    "geostd8": (
        {},
        (
            "€\ufffe‚\ufffe„…†‡\ufffe‰\ufffe‹\ufffe\ufffe\ufffe\ufffe\ufffe‘’“”•–—\ufffe\ufffe\ufffe›\ufffe\ufffe\ufffe\ufffe"
            "\xa0¡¢£¤¥¦§¨©ª«¬\xad®¯°±²³´µ¶·¸¹º»¼½¾¿"
            "აბგდევზჱთიკლმნჲოპჟრსტჳუფქღყშჩცძწ"
            "ჭხჴჯჰჵ\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe№\ufffe\ufffe"
        ),
    ),
    "greek": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0ʽʼ£\ufffe\ufffe¦§¨©\ufffe«¬\xad\ufffe―°±²³΄΅Ά·ΈΉΊ»Ό½ΎΏ"
            "ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ\ufffeΣΤΥΦΧΨΩΪΫάέήί"
            "ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ\ufffe"
        ),
    ),
    "hebrew": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0\ufffe¢£¤¥¦§¨©×«¬\xad®‾°±²³´µ¶·¸¹÷»¼½¾\ufffe"
            "\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe‗"
            "\u05d0\u05d1\u05d2\u05d3\u05d4\u05d5\u05d6\u05d7\u05d8\u05d9\u05da\u05db\u05dc\u05dd\u05de\u05df\u05e0\u05e1\u05e2\u05e3\u05e4\u05e5\u05e6\u05e7\u05e8\u05e9\u05ea\ufffe\ufffe\u200e\u200f\ufffe"
        ),
    ),
    "hp8": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0ÀÂÈÊËÎÏ´ˋˆ¨˜ÙÛ₤¯Ýý°ÇçÑñ¡¿¤£¥§ƒ¢"
            "âêôûáéóúàèòùäëöüÅîØÆåíøæÄìÖÜÉïßÔ"
            "ÁÃãÐðÍÌÓÒÕõŠšÚŸÿÞþ·µ¶¾—¼½ªº«■»±\ufffe"
        ),
    ),
    "keybcs2": (
        {},
        (
            "ČüéďäĎŤčěĚĹÍľĺÄÁÉžŽôöÓůÚýÖÜŠĽÝŘť"
            "áíóúňŇŮÔšřŕŔ¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐"
            "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀"
            "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\xa0"
        ),
    ),
    "koi8r": (
        {},
        (
            "─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■∙√≈≤≥\xa0⌡°²·÷"
            "═║╒ё╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡Ё╢╣╤╥╦╧╨╩╪╫╬©"
            "юабцдефгхийклмнопярстужвьызшэщчъ"
            "ЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ"
        ),
    ),
    "koi8u": (
        {},
        (
            "─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■•√≈≤≥\xa0⌡°²·÷"
            "═║╒ёє╔ії╗╘╙╚╛ґ╝╞╟╠╡ЁЄ╣ІЇ╦╧╨╩╪Ґ╬©"
            "юабцдефгхийклмнопярстужвьызшэщчъ"
            "ЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ"
        ),
    ),
    "latin1": (
        {},
        (
            "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ"
            "\xa0¡¢£¤¥¦§¨©ª«¬\xad®¯°±²³´µ¶·¸¹º»¼½¾¿"
            "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß"
            "àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ"
        ),
    ),
    "latin2": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\xadŽŻ°ą˛ł´ľśˇ¸šşťź˝žż"
            "ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß"
            "ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙"
        ),
    ),
    "latin5": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0¡¢£¤¥¦§¨©ª«¬\xad®¯°±²³´µ¶·¸¹º»¼½¾¿"
            "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß"
            "àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ"
        ),
    ),
    "latin7": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\xa0”¢£¤„¦§Ø©Ŗ«¬\xad®Æ°±²³“µ¶·ø¹ŗ»¼½¾æ"
            "ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß"
            "ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž’"
        ),
    ),
    "macce": (
        {},
        (
            "ÄĀāÉĄÖÜáąČäčĆćéŹźĎíďĒēĖóėôöõúĚěü"
            "†°Ę£§•¶ß®©™ę¨≠ģĮįĪ≤≥īĶ∂∑łĻļĽľĹĺŅ"
            "ņŃ¬√ńŇ∆«»…\xa0ňŐÕőŌ–—“”‘’÷◊ōŔŕŘ‹›řŖ"
            "ŗŠ‚„šŚśÁŤťÍŽžŪÓÔūŮÚůŰűŲųÝýķŻŁżĢˇ"
        ),
    ),
    "macroman": (
        {},
        (
            "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü"
            "†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø"
            "¿¡¬√ƒ≈∆«»…\xa0ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ"
            "‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\uf8ffÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ"
        ),
    ),
    "swe7": (
        {
            0x40: "É",
            0x5B: "Ä",
            0x5C: "Ö",
            0x5D: "Å",
            0x5E: "Ü",
            0x60: "é",
            0x7B: "ä",
            0x7C: "ö",
            0x7D: "å",
            0x7E: "ü",
            0x7F: "\ufffe",
        },
        (
            "\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe"
            "\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe"
            "\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe"
            "\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe\ufffe"
        ),
    ),
    "tis620": (
        {},
        (
            "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f"
            "\ufffeกขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟ"
            "ภมยรฤลฦวศษสหฬอฮฯะัาำิีึืฺุู\ufffe\ufffe\ufffe\ufffe฿"
            "เแโใไๅๆ็่้๊๋์ํ๎๏๐๑๒๓๔๕๖๗๘๙๚๛\ufffe\ufffe\ufffe\ufffe"
        ),
    ),
}

# charset: Python's codec that is nearest, and where the server differs from it: `bytes=code point`, or
# `bytes+count=code point` for so many consecutive ones (last byte and code point count up together)
MULTI_BYTE: Mapping[str, tuple[str, str]] = {
    "big5": (
        "big5",
        (
            "a15a=- a1c3=- a1c5=- a1fe=- a240=- a2cc=- a2ce=- f9d6=7881 f9d7=92B9 f9d8=88CF f9d9=58BB f9da=6052 "
            "f9db=7CA7 f9dc=5AFA"
        ),
    ),
    "cp932": (
        "cp932",
        "80=- a0=- fd+3=-",
    ),
    "euckr": (
        "cp949",
        "",
    ),
    "gb2312": (
        "gb2312",
        "",
    ),
    "gbk": (
        "gbk",
        "",
    ),
    "sjis": (
        "shift_jis",
        "815f=005C",
    ),
    "eucjpms": (
        "euc_jp",
        (
            "8fa2b7=FF5E 8fa2c3=FFE4 8ff3f3+10=2170 8ff3fd+2=2160 8ff4a1+8=2162 8ff4a9=FF07 8ff4aa=FF02 8ff4ab=3231 "
            "8ff4ac=2116 8ff4ad=2121 8ff4ae=70BB 8ff4af=4EFC 8ff4b0=50F4 8ff4b1=51EC 8ff4b2=5307 8ff4b3=5324 "
            "8ff4b4=FA0E 8ff4b5=548A 8ff4b6=5759 8ff4b7+2=FA0F 8ff4b9=589E 8ff4ba=5BEC 8ff4bb=5CF5 8ff4bc=5D53 "
            "8ff4bd=FA11 8ff4be=5FB7 8ff4bf=6085 8ff4c0=6120 8ff4c1=654E 8ff4c2=663B 8ff4c3=6665 8ff4c4=FA12 "
            "8ff4c5=F929 8ff4c6=6801 8ff4c7+2=FA13 8ff4c9=6A6B 8ff4ca=6AE2 8ff4cb=6DF8 8ff4cc=6DF2 8ff4cd=7028 "
            "8ff4ce+2=FA15 8ff4d0=7501 8ff4d1=7682 8ff4d2=769E 8ff4d3=FA17 8ff4d4=7930 8ff4d5+4=FA18 8ff4d9=7AE7 "
            "8ff4da+2=FA1C 8ff4dc=7DA0 8ff4dd=7DD6 8ff4de=FA1E 8ff4df=8362 8ff4e0=FA1F 8ff4e1=85B0 8ff4e2+2=FA20 "
            "8ff4e4=8807 8ff4e5=FA22 8ff4e6=8B7F 8ff4e7=8CF4 8ff4e8=8D76 8ff4e9+3=FA23 8ff4ec=90DE 8ff4ed=FA26 "
            "8ff4ee=9115 8ff4ef+2=FA27 8ff4f1=9592 8ff4f2=F9DC 8ff4f3=FA29 8ff4f4=973B 8ff4f5=974D 8ff4f6=9751 "
            "8ff4f7+3=FA2A 8ff4fa=999E 8ff4fb=9AD9 8ff4fc=9B72 8ff4fd=FA2D 8ff4fe=9ED1 8ff5a1+94=E3AC 8ff6a1+94=E40A "
            "8ff7a1+94=E468 8ff8a1+94=E4C6 8ff9a1+94=E524 8ffaa1+94=E582 8ffba1+94=E5E0 8ffca1+94=E63E 8ffda1+94=E69C "
            "8ffea1+94=E6FA a1c1=FF5E a1c2=2225 a1dd=FF0D a1f1+2=FFE0 a2cc=FFE2 ada1+20=2460 adb5+10=2160 adc0=3349 "
            "adc1=3314 adc2=3322 adc3=334D adc4=3318 adc5=3327 adc6=3303 adc7=3336 adc8=3351 adc9=3357 adca=330D "
            "adcb=3326 adcc=3323 adcd=332B adce=334A adcf=333B add0+3=339C add3+2=338E add5=33C4 add6=33A1 addf=337B "
            "ade0=301D ade1=301F ade2=2116 ade3=33CD ade4=2121 ade5+5=32A4 adea+2=3231 adec=3239 aded=337E adee=337D "
            "adef=337C adf0=2252 adf1=2261 adf2=222B adf3=222E adf4=2211 adf5=221A adf6=22A5 adf7=2220 adf8=221F "
            "adf9=22BF adfa=2235 adfb+2=2229 f5a1+94=E000 f6a1+94=E05E f7a1+94=E0BC f8a1+94=E11A f9a1+94=E178 "
            "faa1+94=E1D6 fba1+94=E234 fca1+94=E292 fda1+94=E2F0 fea1+94=E34E"
        ),
    ),
    "ujis": (
        "euc_jp",
        (
            "8ff5a1+94=E3AC 8ff6a1+94=E40A 8ff7a1+94=E468 8ff8a1+94=E4C6 8ff9a1+94=E524 8ffaa1+94=E582 8ffba1+94=E5E0 "
            "8ffca1+94=E63E 8ffda1+94=E69C 8ffea1+94=E6FA a1c0=005C f5a1+94=E000 f6a1+94=E05E f7a1+94=E0BC "
            "f8a1+94=E11A f9a1+94=E178 faa1+94=E1D6 fba1+94=E234 fca1+94=E292 fda1+94=E2F0 fea1+94=E34E"
        ),
    ),
}
