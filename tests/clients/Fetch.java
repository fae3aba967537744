import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.stream.IntStream;

/** Fetches a page, several times at once, and prints what all of them are. */
class Fetch {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        var request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
        var asked = IntStream.range(0, 8).mapToObj(i -> client.sendAsync(request, BodyHandlers.ofByteArray())).toList();
        for (var answer : asked) {
            var hash = MessageDigest.getInstance("SHA-256").digest(answer.get().body());
            System.out.println(answer.get().statusCode() + " " + HexFormat.of().formatHex(hash));
        }
    }
}
